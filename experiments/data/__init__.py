"""What is read: each file is one data set, or one format of files."""
