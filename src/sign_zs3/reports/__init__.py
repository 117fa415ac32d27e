"""What runs leave behind: results of one run, tables of many, the paper's numbers, predictions as files."""
