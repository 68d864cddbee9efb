// Package certs reads the certificates of authorities.
package certs

import (
	"crypto/x509"
	"errors"
)

// Pool holds the authorities in a text in PEM form, of which there is at least one.
func Pool(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("has no certificate in PEM form")
	}
	return pool, nil
}
