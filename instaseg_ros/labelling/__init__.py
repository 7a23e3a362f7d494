"""Labels frames by clicking: masks from clicks, editing, the dataset on disk, and the page."""
