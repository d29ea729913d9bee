"""Where documents are before they are put: folders, and prefixes of a bucket."""
