"""Natural-language visual reasoning over two images (NLVR2)."""
