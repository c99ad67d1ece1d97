// Package proxyproto reads the header that a proxy puts in front of a connection to
// name the client's address: version 2 of the PROXY protocol.
//
// It decides whether bytes are a header, and the meaning of one. The caller decides
// which proxies are believed and what the address is used for.
package proxyproto
