"""What embedding a data set will take, foretold from its images and a short warm-up."""
