"""How SAM is put to work. Each room is usable without the recipe that trains for it."""
