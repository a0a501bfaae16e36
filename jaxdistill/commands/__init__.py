"""The commands of `jaxdistill`: each parses its arguments and calls the package."""
