"""Where tasks come from: packages, official and own files, extra training data, and lists of task ids."""
