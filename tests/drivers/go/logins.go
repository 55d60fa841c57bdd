package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// In a word, so that nothing of it names hosts.
func cameOf(ctx context.Context, change func(*pgx.ConnConfig)) any {
	connection, err := connect(ctx, change)
	var said *pgconn.PgError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case err == nil:
		return errors.Join(connection.Close(ctx))
	case errors.As(err, &said):
		return said.Code
	case errors.As(err, &authority):
		return "another authority"
	case errors.As(err, &name):
		return "another name"
	}
	return err.Error()
}

// The same without the check of the name, since Go has no such mode.
func byAuthority(config *pgx.ConnConfig) {
	trusted := config.TLSConfig.RootCAs
	config.TLSConfig.InsecureSkipVerify = true
	config.TLSConfig.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: trusted})
		return err
	}
}

func logins(ctx context.Context, c *pgx.Conn) (seen, error) {
	addresses, err := net.DefaultResolver.LookupIP(ctx, "ip4", c.Config().Host)
	if err != nil {
		return nil, err
	}
	return seen{
		"no TLS", cameOf(ctx, func(config *pgx.ConnConfig) { config.TLSConfig = nil }),
		"TLS", cameOf(ctx, func(config *pgx.ConnConfig) { config.TLSConfig.InsecureSkipVerify = true }),
		"by the authority", cameOf(ctx, byAuthority),
		"another name", cameOf(ctx, func(config *pgx.ConnConfig) {
			config.Host = addresses[0].String()
			config.TLSConfig.ServerName = config.Host
		}),
		"another authority", cameOf(ctx, func(config *pgx.ConnConfig) { config.TLSConfig.RootCAs = x509.NewCertPool() }),
		"TLS at once", cameOf(ctx, func(config *pgx.ConnConfig) {
			config.SSLNegotiation = "direct"
			config.TLSConfig.NextProtos = []string{"postgresql"}
		}),
		"TLS 1.2", cameOf(ctx, func(config *pgx.ConnConfig) { config.TLSConfig.MaxVersion = tls.VersionTLS12 }),
		"bound to the channel", cameOf(ctx, func(config *pgx.ConnConfig) { config.ChannelBinding = "require" }),
		"not bound to it", cameOf(ctx, func(config *pgx.ConnConfig) { config.ChannelBinding = "disable" }),
		"latest protocol", cameOf(ctx, func(config *pgx.ConnConfig) { config.MaxProtocolVersion = "latest" }),
		"wrong password", cameOf(ctx, func(config *pgx.ConnConfig) { config.Password = "wrong" }),
		"no such database", cameOf(ctx, func(config *pgx.ConnConfig) { config.Database = "nowhere" }),
		"no such setting", cameOf(ctx, func(config *pgx.ConnConfig) { config.RuntimeParams["no_such"] = "1" }),
	}, nil
}

// What a server tells of itself at login.
func session(ctx context.Context, _ *pgx.Conn) (seen, error) {
	c, err := connect(ctx, func(config *pgx.ConnConfig) {
		config.RuntimeParams["application_name"] = "drivers"
		config.RuntimeParams["options"] = "-c TimeZone=Asia/Tokyo"
	})
	if err != nil {
		return nil, err
	}
	var saw seen
	for _, name := range []string{
		"server_version", "server_encoding", "client_encoding", "application_name", "is_superuser",
		"session_authorization", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
		"standard_conforming_strings", "in_hot_standby", "default_transaction_read_only", "scram_iterations",
	} {
		saw = append(saw, name, c.PgConn().ParameterStatus(name))
	}
	return saw, c.Close(ctx)
}
