"""What-where pools, convolutions, the classifier, and how they save memory."""
