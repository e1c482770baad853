"""What metrics see: the images on which they differ most."""
