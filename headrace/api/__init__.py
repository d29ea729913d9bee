"""The API and the page that `headrace up` serves on this machine."""
