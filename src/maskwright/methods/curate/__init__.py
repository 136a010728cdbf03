"""What to label next, how much more, and which masks are wrong: everything from frozen features of the images, each encoded once."""
