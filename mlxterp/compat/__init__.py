"""Other libraries' calls, so that code written for them runs here with its imports changed."""
