// Command bench measures what tenantry costs per command, beside direct connections and beside the
// least that a proxy could do. Each part is a process of its own, so that the system's accounts tell
// what the proxy alone has used: a server that answers at once what it has made beforehand, a
// generator of load, relays as floors, and the tenantry binary as it is shipped.
//
//	generator ──▶ tenantry | framing | copy | haproxy ──▶ canned server
//	        └─────────────── direct ──────────────────────▶
//
// All variants of a case are up at the same time and take turns in short rounds, so that what
// disturbs the machine disturbs them alike; what is compared is always the ratio within a round.
// It judges nothing but its own runs: where the machine was not quiet it says so.
package main
