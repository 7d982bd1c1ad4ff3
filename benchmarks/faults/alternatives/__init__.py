"""What a user would otherwise have between a broker and a cloud, each written as fairly as it can be."""
