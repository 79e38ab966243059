package routing

import (
	"bytes"
	"strings"

	"github.com/smetasc/tenantry/wire"
)

// words is a set of names from a space-separated list.
func words(list string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(list) {
		m[w] = true
	}
	return m
}

// What connections with row isolation may say, by the server's manual up to 8.2. What is in no list is
// refused: a new operator may do what no rule here has thought of. JavaScript is in none, since it sees
// whatever it is run beside.
var (
	// logical are the operators of a filter that hold filters.
	logical = words("$and $or $nor")
	// unread are those of a filter whose values hold neither filters nor expressions.
	unread = words("$text $jsonSchema $comment $sampleRate")
	// ofField are those that a filter asks of a field. None can fail on a document.
	ofField = words(`$eq $ne $gt $gte $lt $lte $in $nin $exists $type $regex $options $size $mod
		$bitsAllClear $bitsAllSet $bitsAnyClear $bitsAnySet
		$geoWithin $within $geoIntersects $near $nearSphere $maxDistance $minDistance $geometry $uniqueDocs`)
	// total are the operators of expressions that have a value for every document.
	total = words("$eq $ne $gt $gte $lt $lte $cmp $and $or $not $ifNull $cond $isArray $isNumber $type")
	// ofUpdates are the operators of updates.
	ofUpdates = words(`$set $setOnInsert $unset $inc $mul $min $max $rename $currentDate
		$push $pull $pullAll $addToSet $pop $bit`)
	// ofExpressions are the operators of expressions, and whatever else begins with $ in stages,
	// projections and sorts.
	ofExpressions = words(`$literal $abs $add $ceil $divide $exp $floor $ln $log $log10 $mod $multiply $pow $round $sqrt
		$subtract $trunc $sigmoid $arrayElemAt $arrayToObject $concatArrays $filter $first $firstN $in $indexOfArray $isArray $last
		$lastN $map $maxN $minN $objectToArray $range $reduce $reverseArray $size $slice $sortArray $zip
		$bitAnd $bitNot $bitOr $bitXor $and $not $or $cmp $eq $gt $gte $lt $lte $ne $cond $ifNull $switch
		$binarySize $bsonSize $dateAdd $dateDiff $dateFromParts $dateFromString $dateSubtract $dateToParts $dateToString
		$dateTrunc $dayOfMonth $dayOfWeek $dayOfYear $hour $isoDayOfWeek $isoWeek $isoWeekYear $millisecond $minute
		$month $second $toDate $week $year $let $getField $setField $unsetField $rand $sampleRate $mergeObjects $objectToArray
		$allElementsTrue $anyElementTrue $setDifference $setEquals $setIntersection $setIsSubset $setUnion
		$concat $indexOfBytes $indexOfCP $ltrim $regexFind $regexFindAll $regexMatch $replaceOne $replaceAll $rtrim
		$split $strLenBytes $strLenCP $strcasecmp $substr $substrBytes $substrCP $toLower $toString $trim $toUpper
		$encStrContains $encStrEndsWith $encStrNormalizedEq $encStrStartsWith
		$sin $cos $tan $asin $acos $atan $atan2 $asinh $acosh $atanh $sinh $cosh $tanh $degreesToRadians $radiansToDegrees
		$tsSecond $tsIncrement $convert $isNumber $toBool $toDecimal $toDouble $toHashedIndexKey $toInt $toLong
		$toObjectId $toUUID $type $meta
		$addToSet $avg $bottom $bottomN $count $max $median $min $percentile $push $stdDevPop $stdDevSamp $sum $top $topN
		$covariancePop $covarianceSamp $denseRank $derivative $documentNumber $expMovingAvg $integral $linearFill $locf
		$minMaxScaler $rank $shift $natural $createObjectId $similarityCosine $similarityDotProduct $similarityEuclidean`)
	// variables are those of the server's own. A user's begin with a small letter.
	variables = words("ROOT CURRENT NOW CLUSTER_TIME REMOVE DESCEND PRUNE KEEP")
)

// deepest is how deep filters and expressions may be nested; servers take 180 levels of documents.
const deepest = 150

func tooDeep() *wire.Error {
	return wire.Errorf(wire.BadValue, "a filter or expression is nested deeper than %d levels", deepest)
}

func notOpen(operator []byte) *wire.Error {
	return wire.Errorf(wire.Unauthorized, "%q is not open to this connection", operator)
}

// inspector reads filters and expressions of a connection with row isolation before a server does.
type inspector struct {
	fails bool // some filter may fail on a document; its error would tell about it
}

func operator(key []byte) bool { return len(key) > 0 && key[0] == '$' }

// filter looks at a filter; none at all is one.
func (x *inspector) filter(d wire.Doc, depth int) *wire.Error {
	switch {
	case depth > deepest:
		return tooDeep()
	case len(d) == 0:
		return nil
	}
	it := d.Iter()
	for it.Next() {
		if err := x.clause(it.Key, it.Value, depth); err != nil {
			return err
		}
	}
	return whole(it)
}

func whole(it *wire.Iter) *wire.Error {
	if it.Err() != nil {
		return wire.Errorf(wire.FailedToParse, "the command is malformed BSON")
	}
	return nil
}

func (x *inspector) clause(key []byte, v wire.Value, depth int) *wire.Error {
	switch {
	case !operator(key):
		return x.operand(v, depth)
	case unread[string(key)]:
		return nil
	case logical[string(key)]:
		return x.filters(v, depth)
	case string(key) == "$expr":
		x.fails = x.fails || !never(v)
		return x.expression(v, depth+1)
	}
	return notOpen(key)
}

// filters looks at an array of filters.
func (x *inspector) filters(v wire.Value, depth int) *wire.Error {
	a, ok := v.Array()
	if !ok {
		return nil // the server says what is wrong with it
	}
	it := a.Iter()
	for it.Next() {
		if d, ok := it.Value.Doc(); ok {
			if err := x.filter(d, depth+1); err != nil {
				return err
			}
		}
	}
	return whole(it)
}

// operand looks at what a filter asks of a field.
func (x *inspector) operand(v wire.Value, depth int) *wire.Error {
	d, ok := v.Doc()
	if depth > deepest {
		return tooDeep()
	}
	if !ok || !asks(d) {
		return nil // equality
	}
	it := d.Iter()
	for it.Next() {
		var err *wire.Error
		switch key := string(it.Key); {
		case key == "$not":
			err = x.operand(it.Value, depth+1)
		case key == "$elemMatch":
			err = x.element(it.Value, depth+1)
		case key == "$all":
			err = x.elements(it.Value, depth+1)
		case !ofField[key]:
			err = notOpen(it.Key)
		}
		if err != nil {
			return err
		}
	}
	return whole(it)
}

// asks reports whether the value of a field in a filter is made of operators. A reference to a document
// ($ref, $id, $db) is a value.
func asks(d wire.Doc) bool {
	it := d.Iter()
	return it.Next() && operator(it.Key) && string(it.Key) != "$ref"
}

// element looks at the value of $elemMatch: a filter for documents, or operators for other values.
func (x *inspector) element(v wire.Value, depth int) *wire.Error {
	d, ok := v.Doc()
	if !ok {
		return nil
	}
	it := d.Iter()
	if it.Next() && operator(it.Key) && !logical[string(it.Key)] {
		return x.operand(v, depth)
	}
	return x.filter(d, depth)
}

// elements looks at the values of $all.
func (x *inspector) elements(v wire.Value, depth int) *wire.Error {
	a, ok := v.Array()
	if !ok {
		return nil
	}
	it := a.Iter()
	for it.Next() {
		if err := x.operand(it.Value, depth+1); err != nil {
			return err
		}
	}
	return whole(it)
}

// expression looks at an expression, or at the specification of a stage, a projection or a sort: all
// names in it that begin with $ have to be known.
func (x *inspector) expression(v wire.Value, depth int) *wire.Error {
	if depth > deepest {
		return tooDeep()
	}
	if s, ok := v.Str(); ok {
		return variable(s)
	}
	d, ok := v.AnyDoc()
	if !ok {
		return nil
	}
	it := d.Iter()
	for it.Next() {
		if operator(it.Key) {
			if string(it.Key) == "$literal" {
				continue
			}
			if string(it.Key) == "$elemMatch" { // of a projection, a filter
				if err := x.element(it.Value, depth+1); err != nil {
					return err
				}
				continue
			}
			if !ofExpressions[string(it.Key)] {
				return notOpen(it.Key)
			}
		}
		if err := x.expression(it.Value, depth+1); err != nil {
			return err
		}
	}
	return whole(it)
}

// variable refuses a string that is a variable of the server which tells about more than documents.
func variable(s []byte) *wire.Error {
	name, ok := bytes.CutPrefix(s, []byte("$$"))
	if !ok {
		return nil
	}
	name, _, _ = bytes.Cut(name, []byte("."))
	if len(name) > 0 && name[0] >= 'A' && name[0] <= 'Z' && !variables[string(name)] {
		return notOpen(s)
	}
	return nil
}

// never reports whether an expression can fail on no document. An error, or that there is none, tells
// about the document that it was evaluated for, and servers choose in which order they evaluate the
// parts of a filter.
func never(v wire.Value) bool { return neverFails(v, 0) }

func neverFails(v wire.Value, depth int) bool {
	d, ok := v.AnyDoc()
	if !ok {
		return true
	}
	it := d.Iter()
	for it.Next() && depth <= deepest {
		switch key := string(it.Key); {
		case key == "$literal":
			continue
		case key == "$in":
			if !inList(it.Value, depth) {
				return false
			}
			continue
		case operator(it.Key) && !total[key]:
			return false
		}
		if !neverFails(it.Value, depth+1) {
			return false
		}
	}
	return it.Err() == nil && depth <= deepest
}

// inList reports whether the $in of an expression looks into an array that is written out; it fails on
// what is none.
func inList(v wire.Value, depth int) bool {
	f, list, ok := pair(v)
	if !ok {
		return false
	}
	_, written := list.Array()
	return written && neverFails(f, depth+1) && neverFails(list, depth+1)
}
