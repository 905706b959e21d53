r"""An exam for the grader of mathematics: (topic, gold, full response, expected), hand-written from the rules.

Notation, to keep a case on one line: a line `topic: name` opens a topic, `gold X` a problem. `+` and `-` list right and
wrong answers, separated by ` ;; `, each put into a sentence with a box. `++` and `--` are one whole response each, as
it stands, with `⏎` for a line break. More answers are in math_exam_more and math_exam_third, whole responses in
math_exam_responses.
"""

from __future__ import annotations

from typing import NamedTuple

from math_exam_more import MORE_ANSWERS
from math_exam_responses import RESPONSES
from math_exam_third import THIRD_ANSWERS


class Case(NamedTuple):
    """One question of the exam."""

    topic: str
    gold: str
    response: str
    expected: bool


ANSWERS = r"""
topic: numbers
gold 72
+ 72 ;; 72.0 ;; +72 ;; 072 ;; 144/2 ;; {72} ;; 7.2 \times 10^1
- 73 ;; -72 ;; 7.2 ;; 720 ;; 172 ;; 72.01 ;; 27 ;; seventy-three ;; 7 2
gold 1000000
+ 1,000,000 ;; 1{,}000{,}000 ;; 1\,000\,000 ;; 10^6 ;; 10^{6} ;; 1e6 ;; 1\!000\!000
- 1,000,00 ;; 100,000 ;; 10^5 ;; 1e5 ;; 1,000 ;; 1,000,001
gold -3
+ -3 ;; − 3 ;; -\frac{6}{2} ;; -3.00 ;; -(3)
- 3 ;; 3- ;; \pm 3 ;; |-3|
gold 23000
+ 2.3e4 ;; 2.3 \times 10^4 ;; 2.3E+4 ;; 2.3\cdot 10^{4} ;; 2.3×10⁴ ;; 23,000
- 2.3e5 ;; 2.3 ;; 2.3 \times 10^3 ;; 2.3e-4
gold 1200
+ 1,200 ;; 1,\!200 ;; $1,200$ ;; 1200.00
- 1,2,0,0 ;; 1.200 ;; 1, 200, 0
gold 3^{100}
+ 3^{100} ;; 9^{50} ;; 3^{99}\cdot 3
- 3^{101} ;; 5.15 \times 10^{47} ;; 100^3

topic: fractions
gold \frac{1}{2}
+ 0.5 ;; .5 ;; \dfrac{1}{2} ;; \tfrac12 ;; \frac12 ;; 1/2 ;; \frac{2}{4} ;; ½ ;; 50\% ;; {1 \over 2} ;; 2^{-1}
+ 1 \div 2
- 0.33 ;; 2 ;; \frac{2}{1} ;; 12 ;; 1 ;; -0.5 ;; 0.5000001 ;; \frac{1}{2
gold \frac{7}{3}
+ 2\frac{1}{3} ;; 7/3 ;; \cfrac{7}{3} ;; 2 1/3 ;; 2.\overline{3} ;; \frac{14}{6}
- 2.33 ;; 2.333333 ;; \frac{3}{7} ;; 2\cdot\frac{1}{3} ;; 3\frac{1}{3}
gold 11\frac{1}{2}
+ 11.5 ;; \frac{23}{2} ;; 11\tfrac{1}{2} ;; 11 \frac12
- \frac{11}{2} ;; 11 ;; 12.5
gold -\frac{5}{8}
+ \frac{-5}{8} ;; \frac{5}{-8} ;; -0.625 ;; -5/8
- \frac{5}{8} ;; -\frac{8}{5} ;; -0.63

topic: decimals
gold \frac{1}{3}
+ 0.\overline{3} ;; 0.\bar{3} ;; 0.\dot{3} ;; \frac{1}{3} ;; 0.3\overline{3} ;; 33\frac{1}{3}\%
+ \frac{1}{3} \approx 0.333
- 0.333333 ;; 0.33 ;; 0.3333333333333333 ;; 0.3 ;; \approx 0.333 ;; 33\% ;; 0.3\overline{4}
gold \frac{1}{7}
+ 0.\overline{142857} ;; 1/7
- 0.142857 ;; 0.14\overline{2857} ;; 0.1428571428571428571428571428571428571428
gold 2.5
+ 2.50 ;; 5/2 ;; 2\frac{1}{2} ;; \frac{10}{4}
- 2.49999 ;; 2.05 ;; 25 ;; 2.4\overline{8}
gold \pi
+ \pi ;; π ;; {\pi}
- 3.14 ;; 3.14159265358979 ;; 22/7 ;; \frac{355}{113} ;; 2\pi
gold \sqrt{2}
+ \sqrt2 ;; √2 ;; 2^{1/2} ;; 2^{0.5} ;; \frac{2}{\sqrt{2}} ;; \sqrt{2} \approx 1.414
- 1.414 ;; 1.41421356237 ;; 1.4142135623730950488016887242096980785696718753769 ;; 2 ;; \sqrt{3}

topic: formatting
gold 42
+ \textcolor{red}{42} ;; \color{blue}{42} ;; \mathbf{42} ;; \boldsymbol{42} ;; \text{42} ;; \displaystyle 42
+ \underline{42}
+ **42** ;; $42$ ;; \(42\) ;; 42. ;; \left(42\right) ;; 42\, ;; \;42\; ;; \mathrm{42} ;; \fbox{42} ;; ４２
+ \large 42
- \textcolor{red}{43} ;; \text{not 42} ;; \color{blue}{24} ;; \cancel{42} 7
gold \frac{3}{4}
+ \displaystyle\frac{3}{4} ;; \left(\frac{3}{4}\right) ;; \bigl(\tfrac34\bigr) ;; \frac{\textcolor{red}{3}}{4} ;; ¾
+ \frac 3 4
- \frac{3}{\textcolor{red}{5}} ;; 34

topic: roots
gold 2\sqrt{3}
+ \sqrt{12} ;; 2√3 ;; 2\cdot\sqrt{3} ;; \frac{6}{\sqrt{3}} ;; 2 \sqrt 3 ;; 2*sqrt(3) ;; 12^{1/2} ;; √12
- 3\sqrt{2} ;; \sqrt{6} ;; 2 + \sqrt{3} ;; 3.464 ;; 2\sqrt[3]{3} ;; \pm 2\sqrt{3}
gold \sqrt[3]{2}
+ 2^{1/3} ;; 2^{\frac{1}{3}} ;; ∛2 ;; \frac{\sqrt[3]{16}}{2}
- \sqrt{2} ;; 3\sqrt{2} ;; 1.26
gold \frac{1+\sqrt{5}}{2}
+ \frac{1}{2}+\frac{\sqrt5}{2} ;; (1+√5)/2 ;; \frac{\sqrt{5}+1}{2} ;; 0.5(1+\sqrt{5}) ;; \frac{2}{\sqrt{5}-1}
- \frac{1-\sqrt{5}}{2} ;; 1.618 ;; 1+\frac{\sqrt{5}}{2} ;; \phi
gold \sqrt{5+2\sqrt{6}}
+ \sqrt{2}+\sqrt{3} ;; \sqrt3+\sqrt2
- \sqrt{5} ;; 3.146 ;; \sqrt{3}-\sqrt{2}

topic: constants and functions
gold \frac{\sqrt{3}}{2}
+ \sin 60^\circ ;; \cos\frac{\pi}{6} ;; \sin(\pi/3) ;; \frac{3}{2\sqrt{3}}
- \cos 60^\circ ;; 0.866
gold \ln 8
+ 3\ln 2 ;; \ln(8) ;; \log_e 8
- \log_{10} 8 ;; \ln 2^2 ;; 2.079
gold 2\cos 15^{\circ}
+ 2\cos 15^\circ ;; \frac{\sqrt{6}+\sqrt{2}}{2}
- 2\cos 15 ;; 2\sin 15^\circ
gold \binom{10}{3}
+ 120 ;; \frac{10!}{3!7!} ;; 5! ;; {10 \choose 3}
- 720 ;; \binom{10}{4} ;; 5
gold 3+4i
+ 4i+3 ;; 3 + 4\cdot i ;; \sqrt{9}+4i
- 3-4i ;; 5 ;; 4+3i ;; 7i
gold e^{2}
+ e^2 ;; (e)^{2} ;; \frac{e^3}{e} ;; e\cdot e
- 7.389 ;; 2e ;; e^{-2}
gold \frac{\pi}{3}
+ π/3 ;; \frac{2\pi}{6} ;; \frac13\pi ;; \frac{\pi}{3}\text{ radians} ;; 60^\circ
- 60 ;; 1.047 ;; \frac{\pi}{6} ;; \frac{3}{\pi}

topic: algebra
gold x^2+1
+ 1+x^2 ;; x^{2} + 1 ;; x²+1 ;; x\cdot x+1 ;; (x+1)^2-2x
- x^2-1 ;; x^2 ;; y^2+1 ;; 2x+1 ;; x^{21}
gold 7z^{96}(4z+1)
+ 28z^{97}+7z^{96} ;; 7(4z+1)z^{96}
- 28z^{96}+7z^{97} ;; 7z^{96}
gold \frac{1}{x+1}
+ (x+1)^{-1} ;; 1/(x+1) ;; \frac{x}{x^2+x} ;; \frac{1}{1+x}
- 1/x+1 ;; \frac{1}{x-1} ;; x+1
gold 2\sin b\cos a
+ 2\cos a\sin b ;; 2 \sin(b) \cos(a)
- 2\sin a\cos b ;; \sin b\cos a
gold (x-2)(x+3)
+ x^2+x-6 ;; (x+3)(x-2) ;; (2-x)(-3-x)
- x^2-x-6 ;; (x+2)(x-3) ;; x=2
gold 2^{n+1}-1
+ 2\cdot 2^n - 1 ;; 2^{1+n}-1 ;; -1+2^{n+1}
- 2^n+1-1 ;; 2^{n+1} ;; 2n+1
gold \frac{a+b}{2}
+ (a+b)/2 ;; \frac{b+a}{2} ;; \frac{a}{2}+\frac{b}{2}
- a+b/2 ;; \frac{a-b}{2} ;; \frac{x+y}{2}

topic: equations
gold 5
+ x=5 ;; x = 5 ;; n=5 ;; 2+3=5 ;; x = 2+3 = 5
- x=6 ;; 2+3=6 ;; x+5 ;; 5=6 ;; x>5
gold x=5
+ 5 ;; x=5 ;; 5=x ;; 2x=10
- y=5 ;; x=-5 ;; 6 ;; x=5y
gold y=2x+1
+ 2x-y+1=0 ;; y-1=2x ;; 2y=4x+2 ;; y = 1+2x ;; y-2x-1=0
- y=2x-1 ;; y=x+1 ;; x=2y+1 ;; 2x+y+1=0 ;; y>2x+1
gold 12x-4y+3z-169=0
+ -12x+4y-3z+169=0 ;; 12x-4y+3z=169 ;; 24x-8y+6z=338
- 12x-4y+3z+169=0 ;; 12x-4y+3z=0 ;; 12x-4y+3z-169
gold \frac{x^2}{16}-\frac{y^2}{9}=1
+ 9x^2-16y^2=144 ;; \frac{x^2}{16}=1+\frac{y^2}{9}
- \frac{x^2}{16}+\frac{y^2}{9}=1 ;; \frac{x^2}{9}-\frac{y^2}{16}=1
gold f(x)=x^2-4
+ x^2-4 ;; f(x)=(x-2)(x+2) ;; y=x^2-4
- f(x)=x^2+4 ;; x^2=4

topic: lists and sets
gold 1,2
+ 2,1 ;; 1, 2 ;; \{1,2\} ;; \{2, 1\} ;; 1 \text{ and } 2 ;; x=1, x=2 ;; 2 and 1 ;; x=1 \text{ or } x=2
+ 1\text{, }2
- 1 ;; 2 ;; 1,2,3 ;; 1,3 ;; 12 ;; 1.2 ;; [1,2]
gold \{1,2,3\}
+ 3,2,1 ;; \left\{1,2,3\right\} ;; 1, 2, \text{ and } 3 ;; \lbrace 3, 1, 2 \rbrace
- \{1,2\} ;; 1,2,3,4 ;; \{1,2,4\} ;; (1,2,3)
gold 4,-4
+ \pm 4 ;; ±4 ;; x=\pm4 ;; -4,4
- 4 ;; -4 ;; \pm 2
gold 3 \pm 2\sqrt{2}
+ 3+2\sqrt2, 3-2\sqrt2 ;; 3-2√2, 3+2√2 ;; 3 \pm \sqrt{8}
- 3+2\sqrt{2} ;; \pm 3+2\sqrt{2} ;; 2\pm3\sqrt{2}
gold \text{A,C}
+ A, C ;; C, A ;; \text{A and C} ;; A,C
- A ;; A,B ;; A,B,C
gold \emptyset
+ \varnothing ;; \{\} ;; ∅ ;; \text{empty set}
- 0 ;; \{0\} ;; 1

topic: tuples
gold (3,\frac{\pi}{2})
+ \left(3,\frac{\pi}{2}\right) ;; (3, π/2) ;; (3.0, 0.5\pi) ;; (r,\theta)=(3,\frac{\pi}{2})
- (\frac{\pi}{2},3) ;; [3,\frac{\pi}{2}] ;; (3,\pi) ;; 3,\frac{\pi}{2} ;; (3,1.5708) ;; (3,\frac{\pi}{2},0)
gold (-1,5)
+ (-1, 5) ;; (x,y)=(-1,5) ;; \left( -1, 5 \right) ;; (-1{,}5)
- (5,-1) ;; (1,5) ;; -1,5 ;; \{-1,5\} ;; (-15) ;; [-1,5)
gold (1,2),(3,4)
+ (3,4),(1,2) ;; (1,2) \text{ and } (3,4) ;; \{(3,4),(1,2)\}
- (1,2) ;; (2,1),(4,3) ;; (1,2,3,4) ;; (1,4),(3,2)
gold \begin{pmatrix}1\\2\end{pmatrix}
+ \begin{pmatrix} 1 \\ 2 \end{pmatrix} ;; \begin{bmatrix}1\\2\end{bmatrix}
+ \left(\begin{array}{c}1\\2\end{array}\right)
- \begin{pmatrix}2\\1\end{pmatrix} ;; \begin{pmatrix}1\\3\end{pmatrix} ;; \begin{pmatrix}1&2\\0&0\end{pmatrix}
gold \begin{pmatrix}1&2\\3&4\end{pmatrix}
+ \begin{bmatrix}1&2\\3&4\end{bmatrix} ;; \begin{pmatrix}1.0&2\\3&\frac{8}{2}\end{pmatrix}
- \begin{pmatrix}1&3\\2&4\end{pmatrix} ;; (1,2,3,4) ;; 1,2,3,4 ;; \begin{pmatrix}1&2\\3&-4\end{pmatrix}

topic: intervals
gold [-2,7]
+ -2\le x\le 7 ;; x\in[-2,7] ;; \left[-2,7\right] ;; [-2, 7] ;; 7 \ge x \ge -2 ;; -2 ≤ x ≤ 7
- (-2,7) ;; [-2,7) ;; -2<x<7 ;; [-2,8] ;; -2,7 ;; \{-2,7\} ;; x\le 7
gold (-\infty,2)\cup(3,\infty)
+ (-\infty, 2) ∪ (3, ∞) ;; (3,\infty)\cup(-\infty,2) ;; x<2 \text{ or } x>3 ;; (−∞,2)∪(3,+∞)
+ x \in (-\infty,2) \cup (3,\infty)
- (-\infty,2] \cup [3,\infty) ;; (2,3) ;; (-\infty,3)\cup(2,\infty) ;; x<2 ;; 2<x<3
gold (5,\infty)
+ x>5 ;; 5<x ;; (5,+\infty) ;; (5,∞) ;; 2x>10
- x\ge5 ;; [5,\infty) ;; x<5 ;; 5 ;; (-\infty,5)
gold x \ge \frac{1}{2}
+ [\frac{1}{2},\infty) ;; x \geq 0.5 ;; \frac12 \le x ;; 2x \ge 1 ;; x ⩾ 1/2
- x>\frac12 ;; (0.5,\infty) ;; x \le \frac12 ;; x=\frac12
gold (-2,2)
+ x^2<4 ;; -2<x<2 ;; |x|<2
- x^2 \le 4 ;; [-2,2] ;; x^2>4 ;; (2,-2)
gold (-\infty,3)\cup(3,\infty)
+ x \ne 3 ;; \mathbb{R}\setminus\{3\} ;; x \neq 3
- x = 3 ;; \mathbb{R} ;; (-\infty,\infty) ;; x\ne -3
gold (-\infty,\infty)
+ \mathbb{R} ;; ℝ ;; \text{all real numbers} ;; (-∞, ∞)
- (0,\infty) ;; \mathbb{Z} ;; \emptyset

topic: bases
gold 1101_2
+ 1101_{2} ;; 1101_{\text{two}} ;; (1101)_2 ;; 1101₂ ;; 1101_{(2)}
- 1101_3 ;; 13 ;; 1011_2 ;; 15_8 ;; 1101_{10}
gold 152A_{11}
+ 152A_{11} ;; \text{152A}_{11} ;; 152a_{11}
- 152_{11} ;; 152A_{12} ;; 152B_{11}
gold 13
+ 13 ;; 13_{10}
- 13_8 ;; 31_4 ;; 1101_3

topic: units
gold 10\text{ cm}
+ 10 ;; 10 cm ;; 10\text{cm} ;; 10\,\mathrm{cm} ;; 10 centimeters ;; 10.0\text{ cm}
- 10\text{ m} ;; 10 inches ;; 10\text{ cm}^2 ;; 1\text{ cm} ;; 100 mm ;; 10 kg
gold 18
+ 18 dollars ;; \$18 ;; $18 ;; 18 apples ;; 18\text{ cm} ;; 18.00 ;; 18 \text{ km/h} ;; 18 eggs per day ;; 18 units
- 18 thousand ;; 18 million ;; minus 18 ;; 18 dozen ;; 1.8 dollars ;; \$18.50 ;; 18\text{ hundred}
gold 90^\circ
+ 90 ;; 90° ;; 90 degrees ;; 90\text{ degrees} ;; 90^{\circ}
- 90\text{ radians} ;; 9^\circ ;; 80°
gold 50\%
+ 50 ;; 0.5 ;; 50% ;; 50 percent ;; 50\text{ percent} ;; \frac{1}{2}
- 5\% ;; 500\% ;; 0.05 ;; 5000
gold 20\text{ square inches}
+ 20\text{ in}^2 ;; 20 ;; 20 square inches ;; 20 sq in ;; 20\text{ sq. inches}
- 20\text{ inches} ;; 20\text{ cm}^2 ;; 20\text{ cubic inches} ;; 2\text{ square inches}
gold 5\text{ hours}
+ 5 h ;; 5 ;; 5\text{ hrs} ;; 5 hours
- 5 minutes ;; 300 minutes ;; 5 days
gold \$32.50
+ 32.5 ;; 32.50 dollars ;; \$32.50 ;; $32.50 ;; \$ 32.5
- 32.50 cents ;; €32.50 ;; 3250 ;; \$32.05
gold 30\text{ mph}
+ 30 ;; 30 miles per hour ;; 30\text{ mi/h} ;; 30 mph
- 30 km/h ;; 30 miles ;; 30 m/s

topic: text
gold \text{Evelyn}
+ Evelyn ;; evelyn ;; \text{EVELYN} ;; \textbf{Evelyn} ;; \mathrm{Evelyn}
- Eve ;; Evelyn and Bob ;; Bob ;; not Evelyn ;; Evelyn or Bob
gold \text{(C)}
+ C ;; (C) ;; \text{C} ;; \textbf{(C)} ;; c ;; \mathrm{C}
- B ;; (D) ;; A,C ;; C or D ;; \text{(B)}
gold \text{June 20}
+ June 20 ;; june 20 ;; \text{June }20
- June 21 ;; July 20 ;; 20
gold \text{east}
+ East ;; \text{east}
- seat ;; west ;; northeast ;; \text{not east}
gold \text{no solution}
+ no solution ;; No solution ;; \text{No solution}
- 0 ;; solution ;; no
gold 3:5
+ 3:5 ;; 3 : 5 ;; 3\colon 5 ;; 6:10
- 5:3 ;; 3 ;; 35

topic: several values
gold 5
- 5 or 6 ;; 5, 6 ;; \{5,6\} ;; 5-6 or 7 ;; 4 to 5 ;; between 5 and 6 ;; 5 and 6 ;; 5/6 ;; 1,2,3,4,5 ;; \pm 5
- about 5 ;; approximately 5 ;; maybe 5 ;; 5 or so ;; \text{either } 5 \text{ or } 6 ;; 5\text{ (or 6)} ;; 4<x<5
- 4-6 ;; 5; 6
- at least 5 ;; at most 5 ;; more than 5 ;; less than 5 ;; 5+ ;; not 5 ;; 5 \text{ or } 5.5 ;; 5 perhaps ;; 4.9-5.1
- 5?
+ 5 ;; x=5 ;; 5\text{ people} ;; (5) ;; 5 \text{ in total} ;; +5
"""


def _cases() -> list[Case]:
    cases: list[Case] = []
    topic = gold = ""
    for line in (ANSWERS + MORE_ANSWERS + THIRD_ANSWERS + RESPONSES).splitlines():
        mark, _, rest = line.partition(" ")
        if mark == "topic:":
            topic = rest
        elif mark == "gold":
            gold = rest
        elif mark in ("+", "-"):
            cases.extend(
                Case(topic, gold, f"We put it together and find $\\boxed{{{answer}}}$.", mark == "+")
                for answer in rest.split(" ;; ")
            )
        elif mark in ("++", "--"):
            cases.append(Case(topic, gold, rest.replace("⏎", "\n"), mark == "++"))
        elif line:
            raise ValueError(f"not a line of the exam: {line!r}")
    return cases


CASES = _cases()
