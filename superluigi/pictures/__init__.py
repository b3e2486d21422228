"""Pictures that are pages: graphs and runs to look into with a mouse, drawn by libraries that come along."""
