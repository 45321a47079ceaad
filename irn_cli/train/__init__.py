"""Training: recipe, data, losses, discriminator, checkpoint, step, and the trainer that yields what happens."""
