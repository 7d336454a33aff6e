"""The models: three architectures behind one class, and every form their weights come in."""
