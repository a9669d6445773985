"""What keeps the old knowledge while a domain is learnt: KL to the original, Fisher information, EWC."""
