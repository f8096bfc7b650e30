"""Float models, their preprocessing, their images, and the small bundled model."""
