package main

import "time"

// defaultOfflineMax is how long peers whose certificates have ended are served
// while no CA is heard of.
const defaultOfflineMax = 14 * 24 * time.Hour
