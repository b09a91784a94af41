"""Records of runs on disk: journals, what is read from them, and their removal."""
