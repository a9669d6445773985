"""What the loop needs beside the model: optimizer, precision, checkpoints, memory."""
