// Package proxyproto reads the header that a proxy puts in front of a
// connection to say whose it is: version 2 of the PROXY protocol.
//
// It decides what a header means and whether it is one. Which proxies are
// believed, and what the address is used for, is for others to say.
package proxyproto
