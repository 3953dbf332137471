"""How files and folders are written so that they are whole or not there, and what a saved model consists of."""
