"""Ways of protecting a video that the method is compared with, one file each."""
