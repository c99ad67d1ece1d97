// Package mqtt is the broker.
package mqtt
