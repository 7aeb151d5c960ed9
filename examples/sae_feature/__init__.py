"""What the features of an SAE mean: by the texts that activate them, and by the words they promote."""
