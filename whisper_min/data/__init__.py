"""Sources become examples, examples become checked, tokenised, bucketed batches."""
