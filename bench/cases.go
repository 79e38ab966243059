package main

import "fmt"

const (
	tenants = 1000 // in the table of every experiment that doesn't ask for others
	pool    = 100  // the default of max_per_server
)

// through are the ways from the client to the server, with the same load.
func through(l load) []variant {
	list := []variant{
		{Name: "direct", By: "direct", Load: l},
		{Name: "framing", By: "framing", Load: l},
		{Name: "copy", By: "copy", Load: l},
	}
	if haproxyPath() != "" {
		list = append(list, variant{Name: "haproxy", By: "haproxy", Load: l})
	}
	return append(list, variant{Name: "tenantry", By: "tenantry", Tenants: tenants, Isolated: tenants / 2, Pool: pool, Load: l})
}

// beside are all ways of a small find of 64 clients, and tenantry once more with each of some changes.
func beside(name, what, collection string, changes ...func(*variant)) experiment {
	x := experiment{
		Name: name, Title: "small find, 64 clients, " + what + ", all on one CPU", Pinned: true, Base: "framing",
		Variants: through(load{Command: "find", Collection: collection, Tenants: tenants, Reply: 200, Clients: 64}),
	}
	plain := x.Variants[len(x.Variants)-1]
	for _, change := range changes {
		v := plain
		change(&v)
		x.Variants = append(x.Variants, v)
	}
	return x
}

func least(figure, over string, bound float64) target {
	return target{"tenantry", figure, over, true, bound}
}

func most(figure, over string, bound float64) target {
	return target{"tenantry", figure, over, false, bound}
}

// experiments are all of them, in the order of the table.
func experiments() []experiment {
	list := small()
	list = append(list, large()...)
	list = append(list, clients()...)
	return append(list, prices()...)
}

// small commands, pinned to one CPU and free.
func small() (list []experiment) {
	for _, pinned := range []bool{true, false} {
		for _, command := range []string{"find", "insert"} {
			for _, n := range []int{1, 8, 64, 512} {
				e := experiment{
					Name:   fmt.Sprintf("%s-%d-%s", command, n, map[bool]string{true: "pinned", false: "free"}[pinned]),
					Title:  fmt.Sprintf("small %s, clients: %d, %s", command, n, map[bool]string{true: "all on one CPU", false: "all CPUs"}[pinned]),
					Pinned: pinned, Base: "framing",
					Variants: through(load{Command: command, Collection: "orders", Tenants: tenants, Reply: 200, Insert: 150, Clients: n}),
				}
				if pinned {
					e.Targets = []target{least("commands/s", "framing", 0.92), most("CPU", "framing", 1.15)}
				}
				list = append(list, e)
			}
		}
	}
	return list
}

// large messages.
func large() []experiment {
	reply := func(name string, size, clients int, t ...target) experiment {
		return experiment{
			Name: "reply-" + name, Title: fmt.Sprintf("replies of %s, clients: %d", name, clients), Pinned: true, Base: "framing",
			Variants: through(load{Command: "find", Collection: "orders", Tenants: 1, Reply: size, Clients: clients}), Targets: t,
		}
	}
	streamed := []target{least("commands/s", "copy", 0.85), most("CPU", "framing", 0.4), most("MiB over rest", "", 4)}
	return []experiment{
		reply("16KB", 16<<10, 8, least("commands/s", "framing", 0.92)),
		reply("1MB", 1<<20, 1, streamed...),
		reply("16MB", 16<<20, 1, streamed...),
		{
			Name: "getmore-16KB", Title: "batches of 16 KB of an open cursor, 8 clients", Pinned: true, Base: "framing",
			Variants: through(load{Command: "getMore", Collection: "order_items", Tenants: 8, Reply: 16 << 10, Clients: 8}),
			Targets:  []target{least("commands/s", "framing", 0.92)},
		},
		{
			Name: "insert-40MB", Title: "inserts of 40 MB into a collection that belongs to no tenant", Pinned: true, Base: "framing",
			Variants: through(load{Command: "insert", Collection: "users", Tenants: 1, Insert: 40 << 20, Clients: 1}), Targets: streamed,
		},
		{
			Name: "insert-40MB-tenants", Title: "inserts of 40 MB into a collection whose tenants have databases", Pinned: true, Base: "framing",
			Variants: through(load{Command: "insert", Collection: "orders", Tenants: 1, Insert: 40 << 20, Clients: 1}),
			Targets:  []target{most("MiB over rest", "", 44)},
		},
	}
}

// clients in number.
func clients() []experiment {
	proxied := func(l load, pool int) []variant {
		return []variant{{Name: "tenantry", By: "tenantry", Tenants: tenants, Isolated: tenants / 2, Pool: pool, Load: l}}
	}
	return []experiment{
		{
			Name: "idle-5000", Title: "5,000 clients that rest after a command",
			Variants: proxied(load{Command: "find", Collection: "orders", Tenants: tenants, Reply: 200, Clients: 5000, Idle: true}, pool),
			Targets:  []target{most("KiB per client", "", 5)},
		},
		{
			Name: "idle-5000-tls", Title: "5,000 clients that rest after a command, with TLS",
			Variants: []variant{{
				Name: "tenantry", By: "tenantry", Tenants: tenants, Isolated: tenants / 2, Pool: pool, Listener: withTLS,
				Load: load{Command: "find", Collection: "orders", Tenants: tenants, Reply: 200, Clients: 5000, Idle: true, TLS: true},
			}},
			Targets: []target{most("KiB per client", "", 20)},
		},
		{
			Name: "clients-10000", Title: "10,000 clients, a command a second each, 50 connections to the server",
			Base: "direct",
			Variants: append(proxied(load{Command: "find", Collection: "orders", Tenants: tenants, Reply: 200, Clients: 10_000, Rate: 10_000}, 50),
				variant{Name: "direct", By: "direct", Load: load{Command: "find", Collection: "orders", Tenants: tenants, Reply: 200, Clients: 10_000, Rate: 10_000}}),
			Targets: []target{most("p99", "", 20_000)},
		},
	}
}

// withTLS is a listener's lines.
const withTLS = `tls = { cert = "` + certificateFile + `", key = "` + certificateFile + `" }`

// borders are the prices of who comes how: kept apart from those who listen and from each other, by unix sockets, or
// by as many system calls as messages.
func borders() []experiment {
	encryption := experiment{Name: "tls", Title: "small find and replies of 16 KB, 8 clients, with and without TLS", Pinned: true, Base: "plain"}
	for _, size := range []int{200, 16 << 10} {
		suffix := map[bool]string{true: "", false: " 16 KB"}[size == 200]
		l := load{Command: "find", Collection: "orders", Tenants: tenants, Reply: size, Clients: 8}
		plain := variant{Name: "plain" + suffix, By: "tenantry", Tenants: tenants, Isolated: tenants / 2, Pool: pool, Load: l}
		secured := plain
		secured.Name, secured.Listener, secured.Load.TLS = "TLS"+suffix, withTLS, true
		encryption.Variants = append(encryption.Variants, plain, secured)
	}

	unix := beside("unix", "by TCP and by unix sockets", "orders",
		func(v *variant) { v.Name, v.Unix = "tenantry, unix: clients", "clients" },
		func(v *variant) { v.Name, v.Unix = "tenantry, unix: all", "all" })
	rings := beside("io-uring", "with and without io_uring", "orders",
		func(v *variant) { v.Name, v.Calls = "tenantry, without", true })
	return []experiment{encryption, bound(8), bound(64), unix, rings}
}

func bound(clients int) experiment {
	x := experiment{
		Name: fmt.Sprintf("bound-%d", clients), Title: fmt.Sprintf("small find of one tenant, %d clients, by open and bound connections", clients),
		Pinned: true, Base: "open",
	}
	for _, v := range []struct {
		name, isolation string
		isolated        int
	}{
		{"open", "", 0}, {"rows", "rows", 0}, {"open, own database", "", tenants / 2}, {"rows, own database", "rows", tenants / 2}, {"database", "database", tenants / 2},
	} {
		listener := ""
		if v.isolation != "" {
			listener = fmt.Sprintf("tenant = %q\nisolation = %q", cannedTenant, v.isolation)
		}
		x.Variants = append(x.Variants, variant{
			Name: v.name, By: "tenantry", Tenants: tenants, Isolated: v.isolated, Pool: pool, Listener: listener,
			Load: load{Command: "find", Collection: "orders", Tenant: cannedTenant, Reply: 200, Clients: clients},
		})
	}
	return x
}

// prices of what tenantry does beside forwarding.
func prices() []experiment {
	find := load{Command: "find", Collection: "orders", Tenants: 10, Reply: 200, Clients: 8}
	growth := experiment{Name: "growth", Title: "small find, 8 clients, tables of several sizes", Pinned: true, Base: "1000 tenants"}
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		growth.Variants = append(growth.Variants,
			variant{Name: fmt.Sprint(n, " tenants"), By: "tenantry", Tenants: n, Isolated: n / 2, Pool: pool, Load: find})
	}
	growth.Targets = []target{{"100000 tenants", "CPU", "1000 tenants", false, 1.1}}

	scatter := experiment{Name: "scatter", Title: fmt.Sprintf("finds without a tenant where every database takes %v", slowFor), Base: "1 home"}
	for _, n := range []int{1, 2, 8, 32} {
		scatter.Variants = append(scatter.Variants, variant{
			Name: map[bool]string{true: "1 home", false: fmt.Sprint(n, " homes")}[n == 1], By: "tenantry", Tenants: tenants, Isolated: n - 1, Pool: pool,
			Load: load{Command: "find", Collection: "slow", NoTenant: true, Reply: 200, Clients: 1},
		})
	}
	scatter.Targets = []target{{"32 homes", "p50", "1 home", false, 1.5}}

	compression := experiment{Name: "compression", Title: "replies of 16 KB to clients that compress, 8 clients", Pinned: true, Base: "none"}
	for _, c := range []string{"none", "snappy", "zlib", "zstd"} {
		l := load{Command: "find", Collection: "orders", Tenants: 10, Reply: 16 << 10, Clients: 8}
		if c != "none" {
			l.Compressor = c
		}
		compression.Variants = append(compression.Variants,
			variant{Name: c, By: "tenantry", Tenants: tenants, Isolated: tenants / 2, Pool: pool, Load: l})
	}
	replica := beside("replica", "with the times that replica sets tell", "timed",
		func(v *variant) { v.Name, v.Second = "tenantry, two clusters", true })
	return append([]experiment{growth, scatter, compression, replica}, borders()...)
}
