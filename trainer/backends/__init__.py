"""Where fine-tunes are made. One file per backend, each exposing one `Backend`."""
