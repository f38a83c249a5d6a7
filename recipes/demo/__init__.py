"""How the bundled model is made from nothing: corpus, vocabulary, training rows, evaluation."""
