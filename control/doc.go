// Package control is the source of truth for tenants and their routes. It joins what the file, the
// environment, the application's list of tenants and the control database say, builds the table
// that commands are routed by, and alone publishes it. It also makes flips: the small moves of
// tenants that have no documents yet, between the shared database and one of their own.
//
// It moves no documents, and it never shows a tenant an empty database while its documents are
// elsewhere: what a flag asks for is looked at first, and not obeyed where obeying would hide
// something. It serves no client; the proxy asks it through two functions and reads the table.
//
// What is decided stands in functions from values to values (scope.go, desired.go, build.go); what
// talks to servers is thin (store.go, tenants.go, look.go); flip.go puts both in order.
//
// A flip from shared to a database of the tenant's own:
//
//	look ─▶ prepare ─▶ pause ─▶ drain ─▶ look again ─▶ prepare the rest ─▶ write the route ─▶ publish
//	  └──── refused ◀────┴─────────┴──────────┴──────────────┘
//
// Up to the route's write nothing has changed but an own database without documents, and the way
// back is a table without the pause. A write of the route whose outcome is unknown keeps the tenant
// paused until the route has been read again, or a later write has shut out the first.
//
// The drain covers this process. A fleet of several proxies needs the leases of the move's design
// for the same promise; until they are there, a second proxy learns of a route at its next poll.
package control
