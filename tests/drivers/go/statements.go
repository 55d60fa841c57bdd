package main

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Looks at a statement that is to sleep before it is cancelled.
const looks = 5000

func transactions(ctx context.Context, c *pgx.Conn) (seen, error) {
	_, err := c.Exec(ctx, "DROP TABLE IF EXISTS drv_go; CREATE TABLE drv_go (n int PRIMARY KEY, t text)")
	if err != nil {
		return nil, err
	}
	given := errors.New("given up")
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO drv_go VALUES ($1, 'one')", 1); err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "INSERT INTO drv_go VALUES (2)")
			return err
		})
	})
	inner := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM drv_go")
		return errors.Join(err, given)
	})
	count, counted := number(ctx, c, "SELECT count(*) FROM drv_go")
	return seen{count, fmt.Sprint(inner)}, errors.Join(err, counted)
}

func modes(ctx context.Context, c *pgx.Conn) (seen, error) {
	var saw seen
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		sum := 0
		for n := range 10 {
			got, err := number(ctx, c, "SELECT $1::int + 1", mode, n)
			if err != nil {
				return nil, fmt.Errorf("%v: %w", mode, err)
			}
			sum += got
		}
		_, err := c.Exec(ctx, "SELECT 1 / $1::int", mode, 0)
		saw = append(saw, mode.String(), sum, failing(err))
	}
	prepared, err := number(ctx, c, "SELECT count(*) FROM pg_prepared_statements")
	return append(saw, prepared), err
}

func wrong(ctx context.Context, c *pgx.Conn) (seen, error) {
	var saw seen
	for _, query := range []string{
		"SELECT * FROM no_such_table", "INSERT INTO drv_go VALUES (1)", "SELECT 1 / 0",
		"DO $$BEGIN RAISE 'own: naïve 猫' USING ERRCODE = 'MY001', DETAIL = 'd', HINT = 'h', COLUMN = 'c'; END$$",
	} {
		_, err := c.Exec(ctx, query)
		saw = append(saw, failing(err))
	}
	return saw, c.Ping(ctx)
}

func notices(ctx context.Context, _ *pgx.Conn) (seen, error) {
	var saw seen
	c, err := connect(ctx, func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
			saw = append(saw, fields((*pgconn.PgError)(notice)))
		}
	})
	if err != nil {
		return nil, err
	}
	_, err = c.Exec(ctx, `DO $$BEGIN
		RAISE NOTICE 'a notice' USING DETAIL = 'd', HINT = 'h';
		RAISE WARNING 'naïve 猫';
		FOR i IN 1..200 LOOP RAISE NOTICE 'notice %', i; END LOOP;
	END$$`)
	return seen{saw[:min(3, len(saw))], len(saw)}, errors.Join(err, c.Close(ctx))
}

func batch(ctx context.Context, c *pgx.Conn) (seen, error) {
	b := &pgx.Batch{}
	for n := range 300 {
		b.Queue("SELECT $1::int", n)
	}
	results := c.SendBatch(ctx, b)
	sum := 0
	for range 300 {
		var got int
		if err := results.QueryRow().Scan(&got); err != nil {
			return nil, err
		}
		sum += got
	}
	if err := results.Close(); err != nil {
		return nil, err
	}
	// The second fails, so the third isn't done.
	b = &pgx.Batch{}
	for _, n := range []int{1, 0, 1} {
		b.Queue("SELECT 1 / $1::int", n)
	}
	results = c.SendBatch(ctx, b)
	saw := seen{sum}
	for range 3 {
		_, err := results.Exec()
		saw = append(saw, failing(err))
	}
	_ = results.Close()
	return saw, c.Ping(ctx)
}

func copying(ctx context.Context, c *pgx.Conn) (seen, error) {
	if _, err := c.Exec(ctx, "TRUNCATE drv_go"); err != nil {
		return nil, err
	}
	columns := []string{"n", "t"}
	rows, err := c.CopyFrom(ctx, pgx.Identifier{"drv_go"}, columns, pgx.CopyFromSlice(100000, func(i int) ([]any, error) {
		return []any{i, "naïve\t猫"}, nil
	}))
	if err != nil {
		return nil, err
	}
	out := md5.New()
	if _, err = c.PgConn().CopyTo(ctx, out, "COPY drv_go TO STDOUT"); err != nil {
		return nil, err
	}
	_, bad := c.PgConn().CopyFrom(ctx, strings.NewReader("no number\n"), "COPY drv_go FROM STDIN")
	_, broken := c.PgConn().CopyFrom(ctx, io.MultiReader(strings.NewReader("1\n"), unreadable{}), "COPY drv_go FROM STDIN")
	count, err := number(ctx, c, "SELECT count(*) FROM drv_go")
	return seen{rows, fmt.Sprintf("%x", out.Sum(nil)), failing(bad), failing(broken), count}, err
}

// A source that breaks.
type unreadable struct{}

func (unreadable) Read([]byte) (int, error) { return 0, errors.New("the source broke") }

func large(ctx context.Context, c *pgx.Conn) (seen, error) {
	rows, err := c.Query(ctx, "SELECT md5(n::text) FROM generate_series(1, 100000) n")
	if err != nil {
		return nil, err
	}
	all := md5.New()
	for rows.Next() {
		all.Write(rows.RawValues()[0])
	}
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	var value, parameter string
	if err = c.QueryRow(ctx, "SELECT repeat('y', 10000000)").Scan(&value); err != nil {
		return nil, err
	}
	err = c.QueryRow(ctx, "SELECT md5($1)", strings.Repeat("z", 5000000)).Scan(&parameter)
	return seen{fmt.Sprintf("%x", all.Sum(nil)), fmt.Sprintf("%x", md5.Sum([]byte(value))), parameter}, err
}

func pipelined(ctx context.Context, c *pgx.Conn) (seen, error) {
	p := c.PgConn().StartPipeline(ctx)
	p.SendPrepare("p1", "SELECT 7 / $1::int", nil)
	if err := p.Sync(); err != nil {
		return nil, err
	}
	for _, argument := range []string{"1", "0", "7"} {
		p.SendQueryPrepared("p1", [][]byte{[]byte(argument)}, nil, nil)
		p.SendQueryPrepared("p1", [][]byte{[]byte("1")}, nil, nil)
		if err := p.Sync(); err != nil {
			return nil, err
		}
	}
	var saw seen
	for {
		result, err := p.GetResults()
		if err != nil {
			saw = append(saw, failing(err))
			if c.IsClosed() {
				return saw, err
			}
			continue
		}
		switch result := result.(type) {
		case nil:
			return saw, errors.Join(p.Close(), c.Ping(ctx))
		case *pgconn.ResultReader:
			read := result.Read()
			rows := seen{failing(read.Err)}
			for _, row := range read.Rows {
				rows = append(rows, string(row[0]))
			}
			saw = append(saw, rows)
		case *pgconn.PipelineSync:
			saw = append(saw, "sync")
		case *pgconn.StatementDescription:
			saw = append(saw, result.ParamOIDs)
		}
	}
}

// Waits until a session's statement sleeps.
func asleep(ctx context.Context, pid uint32) error {
	c, err := connect(ctx, asItIs)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	for range looks {
		query := "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
		if count, err := number(ctx, c, query, int64(pid)); err != nil || count == 1 {
			return err
		}
	}
	return errors.New("it doesn't sleep")
}

func cancelled(ctx context.Context, c *pgx.Conn) (seen, error) {
	asked := make(chan error)
	go func() {
		asked <- errors.Join(asleep(ctx, c.PgConn().PID()), c.PgConn().CancelRequest(ctx))
	}()
	_, err := c.Exec(ctx, "SELECT pg_sleep(60)")
	return seen{failing(err)}, errors.Join(<-asked, c.Ping(ctx))
}

func listening(ctx context.Context, c *pgx.Conn) (seen, error) {
	speaker, err := connect(ctx, asItIs)
	if err != nil {
		return nil, err
	}
	defer func() { _ = speaker.Close(ctx) }()
	if _, err = c.Exec(ctx, "LISTEN drv_go"); err != nil {
		return nil, err
	}
	if _, err = speaker.Exec(ctx, "NOTIFY drv_go, 'hello: naïve 猫'"); err != nil {
		return nil, err
	}
	heard, err := c.WaitForNotification(ctx)
	if err != nil {
		return nil, err
	}
	return seen{heard.Channel, heard.Payload, heard.PID == speaker.PgConn().PID()}, nil
}

func objects(ctx context.Context, c *pgx.Conn) (seen, error) {
	var saw seen
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		large := tx.LargeObjects()
		id, err := large.Create(ctx, 0)
		if err != nil {
			return err
		}
		object, err := large.Open(ctx, id, pgx.LargeObjectModeWrite|pgx.LargeObjectModeRead)
		if err != nil {
			return err
		}
		written, err := object.Write([]byte(strings.Repeat("0123456789", 100000)))
		if err != nil {
			return err
		}
		if _, err = object.Seek(0, io.SeekStart); err != nil {
			return err
		}
		sum := md5.New()
		read, err := io.Copy(sum, object)
		saw = seen{written, read, fmt.Sprintf("%x", sum.Sum(nil))}
		return errors.Join(err, large.Unlink(ctx, id))
	})
	return saw, err
}

func pooled(ctx context.Context, _ *pgx.Conn) (seen, error) {
	pool, err := pgxpool.New(ctx, "pool_max_conns=10")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	type answer struct {
		got int
		err error
	}
	answers := make(chan answer)
	for n := range 100 {
		go func() {
			var a answer
			a.err = pool.QueryRow(ctx, "SELECT $1::int", n).Scan(&a.got)
			answers <- a
		}()
	}
	sum := 0
	for range 100 {
		a := <-answers
		sum += a.got
		err = errors.Join(err, a.err)
	}
	return seen{sum}, err
}
