"""Networks that see images and read words."""
