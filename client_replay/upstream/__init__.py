"""Methods of upstream's objects that a client of a cell needs otherwise."""
