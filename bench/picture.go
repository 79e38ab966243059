package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// point is a latency at a load.
type point struct{ X, Y float64 }

// curve is a line of the picture.
type curve struct {
	Name   string
	Points []point
	Dashed bool
	Color  string
}

// plot is a picture of curves, the vertical axis logarithmic.
type plot struct {
	Title, X, Y string
	Curves      []curve
}

// Where things are in the picture.
const (
	width, height            = 860.0, 480.0
	left, right, top, bottom = 70.0, 190.0, 40.0, 50.0
)

// scale maps values to places.
type scale struct{ maxX, minY, maxY float64 }

func (p *plot) scale() scale {
	s := scale{0, math.Inf(1), 0}
	for _, c := range p.Curves {
		for _, q := range c.Points {
			s.maxX, s.minY, s.maxY = max(s.maxX, q.X), min(s.minY, q.Y), max(s.maxY, q.Y)
		}
	}
	if s.maxX == 0 || s.maxY <= 0 || s.minY <= 0 {
		return scale{1, 1, 10}
	}
	s.minY = math.Pow(10, math.Floor(math.Log10(s.minY)))
	s.maxY = math.Pow(10, math.Ceil(math.Log10(s.maxY)))
	if s.maxY == s.minY {
		s.maxY *= 10
	}
	return s
}

func (s scale) x(v float64) float64 { return left + v/s.maxX*(width-left-right) }

func (s scale) y(v float64) float64 {
	part := math.Log10(max(v, s.minY)/s.minY) / math.Log10(s.maxY/s.minY)
	return height - bottom - part*(height-top-bottom)
}

// write draws the plot as SVG.
func (p *plot) write(w io.Writer) error {
	var b strings.Builder
	s := p.scale()
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="white"/>`+"\n", width, height)
	label(&b, left, 24, "start", p.Title)
	label(&b, (left+width-right)/2, height-12, "middle", p.X)
	label(&b, left, top-4, "middle", p.Y)
	s.grid(&b)
	for i, c := range p.Curves {
		c.draw(&b, s, i)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (s scale) grid(b *strings.Builder) {
	for v := s.minY; v <= s.maxY*1.001; v *= 10 {
		line(b, left, s.y(v), width-right, s.y(v))
		label(b, left-6, s.y(v)+4, "end", fmt.Sprintf("%g", v))
	}
	for i := range 6 {
		v := s.maxX * float64(i) / 5
		line(b, s.x(v), top, s.x(v), height-bottom)
		label(b, s.x(v), height-bottom+16, "middle", fmt.Sprintf("%.0f", v))
	}
}

func (c *curve) draw(b *strings.Builder, s scale, nth int) {
	dash := ""
	if c.Dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	var at []string
	for _, p := range c.Points {
		at = append(at, fmt.Sprintf("%.1f,%.1f", s.x(p.X), s.y(p.Y)))
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(at, " "), c.Color, dash)
	y := top + 16*float64(nth)
	fmt.Fprintf(b, `<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s" stroke-width="2"%s/>`+"\n",
		width-right+12, y, width-right+40, y, c.Color, dash)
	label(b, width-right+46, y+4, "start", c.Name)
}

func line(b *strings.Builder, x1, y1, x2, y2 float64) {
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", x1, y1, x2, y2)
}

func label(b *strings.Builder, x, y float64, anchor, text string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s">`, x, y, anchor)
	_ = xml.EscapeText(b, []byte(text))
	b.WriteString("</text>\n")
}
