"""Where documents are before they are put: folders, prefixes of a bucket, and Git repositories."""
