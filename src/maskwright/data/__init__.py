"""What a label is, and how labels and images are stored, checked, read and written."""
