"""Pure functions and small parts that the models share."""
