"""Pure functions that return what is to be run: argv lists, bake documents, wrapper texts. They start nothing."""
