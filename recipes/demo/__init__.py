"""How the bundled model is made from scratch: corpus, vocabulary, training rows, evaluation."""
