"""One example → a folder: the same things in other images, without training, with an honest "not there"."""
