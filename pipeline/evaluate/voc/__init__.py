"""Classification and detection on Pascal VOC, or on datasets in its layout."""
