"""The hybrid recommender: a memory of transitions, where its tokens start, its model, and the class of it all."""
