"""One module for each kind of data source."""
