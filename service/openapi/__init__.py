"""What the API says of itself: schemas, examples and the OpenAPI document."""
