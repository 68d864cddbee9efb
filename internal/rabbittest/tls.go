package rabbittest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The files of a node that listens for TLS, in its folder.
const (
	caFile   = "ca.pem"
	caKey    = "ca-key.pem"
	certFile = "cert.pem"
	keyFile  = "key.pem"
)

// writeCertificates makes an authority and, signed by it, a certificate for this
// machine's own names, and writes what the node and its clients need into dir.
func writeCertificates(dir string) error {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Warren test authority"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	node := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    authority.NotBefore,
		NotAfter:     authority.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	cert, err := x509.CreateCertificate(rand.Reader, node, authority, &key.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	authorityPrivate, err := x509.MarshalPKCS8PrivateKey(authorityKey)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, caFile), "CERTIFICATE", ca),
		writePEM(filepath.Join(dir, caKey), "PRIVATE KEY", authorityPrivate),
		writePEM(filepath.Join(dir, certFile), "CERTIFICATE", cert),
		writePEM(filepath.Join(dir, keyFile), "PRIVATE KEY", private),
	)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// ClientCertificate writes into dir, as cert.pem and key.pem, a certificate of a client
// with this name, signed by the authority of the node, which has Options.TLS. It returns
// their paths.
func (n *Node) ClientCertificate(t testing.TB, dir, name string) (cert, key string) {
	t.Helper()
	return clientCertificate(t, n.dir, dir, name)
}

// StrangersCertificate is ClientCertificate of an authority that no node trusts.
func StrangersCertificate(t testing.TB, dir, name string) (cert, key string) {
	t.Helper()
	strangers := t.TempDir()
	if err := writeCertificates(strangers); err != nil {
		t.Fatal(err)
	}
	return clientCertificate(t, strangers, dir, name)
}

func clientCertificate(t testing.TB, authority, dir, name string) (cert, key string) {
	t.Helper()
	signer, err := tls.LoadX509KeyPair(filepath.Join(authority, caFile), filepath.Join(authority, caKey))
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    signer.Leaf.NotBefore,
		NotAfter:     signer.Leaf.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, signer.Leaf, &private.PublicKey, signer.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, certFile), filepath.Join(dir, keyFile)
	if err := errors.Join(writePEM(cert, "CERTIFICATE", der), writePEM(key, "PRIVATE KEY", encoded)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Peers are the names in the certificates of the clients that are connected to the vhost
// over TLS, each once for each connection.
func (v *Vhost) Peers(t testing.TB) []string {
	t.Helper()
	text, err := v.Node.Eval(fmt.Sprintf(`list_to_atom(binary_to_list(iolist_to_binary(lists:join(",", [S || [{peer_cert_subject, S}, {vhost, %s}] <- rabbit_networking:connection_info_all([peer_cert_subject, vhost]), is_binary(S)]))))`, term(v.Name)))
	if err != nil {
		t.Fatalf("list the connections: %v", err)
	}
	var names []string
	for name := range strings.SplitSeq(strings.Trim(text, "'"), ",") {
		names = append(names, strings.TrimPrefix(name, "CN="))
	}
	return names
}

// ChangePassword gives a user of the node another password.
func (n *Node) ChangePassword(t testing.TB, user, password string) {
	t.Helper()
	if err := n.do("rabbit_auth_backend_internal:change_password(%s, %s, %s)", term(user), term(password), actor); err != nil {
		t.Fatalf("change the password of %s: %v", user, err)
	}
}
