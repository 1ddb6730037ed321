"""Whether what clients saw of an object could have been shown by one object, one call at a time."""
