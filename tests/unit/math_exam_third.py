r"""The third part of the exam, again written before the grader had seen it. The notation is math_exam's."""

from __future__ import annotations

THIRD_ANSWERS = r"""
topic: numbers
gold 10,\!236
+ 10,236 ;; 10236 ;; 10{,}236 ;; 10\,236 ;; $10,236$
- 10,263 ;; 10.236 ;; 10, 236
gold 6.02\times10^{23}
+ 6.02e23 ;; 6.02 \cdot 10^{23} ;; 602\times10^{21} ;; 6.02×10^23 ;; 6.02*10^{23}
- 6.02\times10^{22} ;; 6.02 ;; 6\times10^{23}
gold -\frac{1}{2}
+ -.5 ;; −½ ;; \frac{-1}{2} ;; -\left(\frac12\right) ;; -2^{-1} ;; −0.5
- 0.5 ;; --\frac12 ;; \frac{-1}{-2}
gold 1
+ 0.\overline{9} ;; \frac{5}{5} ;; 1.000 ;; 100\% ;; 7^0 ;; \sin^2 x+\cos^2 x
- 0.999999 ;; 1.0001 ;; i ;; l

topic: unicode
gold x^2+2x
+ x²+2x ;; x² + 2·x ;; 𝑥^2+2x
- x³+2x ;; x2+2x
gold 2\pi r^2
+ 2πr² ;; 2 π r^2 ;; 2\pi r^{2}
- 2πr ;; πr²
gold \frac{2}{3}
+ ⅔ ;; 2⁄3 ;; 2∕3
- ⅓ ;; 3⁄2
gold \{x \mid x \ge 2\}
+ [2,∞) ;; x ≥ 2 ;; x ⩾ 2 ;; 2 ≤ x
- x > 2 ;; (2,∞) ;; x ≤ 2

topic: algebra
gold (x+y)^2
+ x^2+2xy+y^2 ;; (y+x)^2 ;; (x+y)(x+y) ;; x^2 + y^2 + 2xy
- x^2+y^2 ;; (x-y)^2 ;; x+y^2
gold \frac{1}{\sqrt{x}}
+ x^{-1/2} ;; \frac{\sqrt{x}}{x} ;; \sqrt{\frac{1}{x}} ;; x^{-0.5}
- \sqrt{x} ;; \frac1x ;; x^{1/2}
gold 2^{2n}
+ 4^n ;; (2^n)^2 ;; 2^n \cdot 2^n ;; 4^{n}
- 2^{n^2} ;; 2^{2^n} ;; 4n
gold \ln(x+1)
+ \ln(1+x) ;; \ln{(x+1)} ;; \ln\left(x+1\right)
- \ln x + 1 ;; \log_{10}(x+1) ;; \ln(x)
gold \tan\theta
+ \frac{\sin\theta}{\cos\theta} ;; \tan(\theta) ;; \tan{\theta} ;; tan θ
- \cot\theta ;; \tan\phi ;; \tan
gold ab
+ ba ;; a\cdot b ;; a b ;; (a)(b) ;; a \times b
- a+b ;; AB c ;; a^b
gold \frac{n!}{k!(n-k)!}
+ \binom{n}{k} ;; \frac{n!}{(n-k)!k!}
- \frac{n!}{(n-k)!} ;; \binom{k}{n}
gold \cos x + i\sin x
+ e^{ix} ;; i\sin x+\cos x
- e^{-ix} ;; \cos x - i \sin x ;; \cos x

topic: equations
gold y = 3
+ y=3 ;; 3 ;; y = 3.0 ;; 2y=6 ;; y-3=0
- x=3 ;; y=-3 ;; y>3
gold x+2y=4
+ 2y=4-x ;; y=2-\frac{x}{2} ;; y=\frac{4-x}{2} ;; x=4-2y ;; -x-2y+4=0 ;; 0.5x+y=2
- x+2y=-4 ;; 2x+y=4 ;; x+2y ;; x-2y=4
gold (x-1)^2+(y+2)^2=9
+ x^2+y^2-2x+4y-4=0 ;; (y+2)^2+(x-1)^2=3^2 ;; (1-x)^2+(y+2)^2=9
- (x+1)^2+(y-2)^2=9 ;; (x-1)^2+(y+2)^2=3 ;; (x-1)^2+(y+2)^2
gold f(x)=3x
+ 3x ;; f(x) = 3 x ;; f(x)=x\cdot3
- f(x)=3 ;; f(x)=x^3
gold \frac{5}{2}
+ x=2.5 ;; x = \frac{10}{4} = \frac{5}{2} ;; \frac{10}{4}=\frac52=2.5 ;; \angle A = 2.5^\circ
- x = \frac{10}{4} = 3 ;; \frac52=2.6

topic: lists and sets
gold 3,5,7
+ 7,5,3 ;; \{3,5,7\} ;; 3, 5, and 7 ;; 3,5\text{ and }7 ;; 3; 5; 7 ;; x = 3, 5, 7
- 3,5 ;; 357 ;; (3,5) ;; 3,5,7,9 ;; 3+5+7 ;; 3,5,8
gold \frac{-1\pm\sqrt{5}}{2}
+ \frac{-1+\sqrt5}{2},\frac{-1-\sqrt5}{2} ;; -\frac12\pm\frac{\sqrt5}{2} ;; x=\frac{-1\pm\sqrt{5}}{2}
+ \left\{\frac{-1-\sqrt5}{2},\frac{\sqrt5-1}{2}\right\}
- \frac{1\pm\sqrt5}{2} ;; \frac{-1+\sqrt5}{2}
gold (0,0),(1,1)
+ (1,1),(0,0) ;; (0,0)\text{ and }(1,1) ;; (0,0); (1,1)
- (0,0) ;; (0,1),(1,0) ;; 0,1
gold -2 \text{ or } -12
+ -12,-2 ;; -2, -12 ;; x=-2\text{ or }x=-12 ;; -12 or -2
- -2 ;; 2,12 ;; -14

topic: intervals
gold \left(-\infty,-\frac12\right]\cup\left[\frac12,\infty\right)
+ x\le-\frac12\text{ or }x\ge\frac12 ;; |x|\ge\frac12 ;; (-\infty,-0.5]\cup[0.5,\infty)
+ x \leq -1/2 \lor x \geq 1/2
- (-\infty,-\frac12)\cup(\frac12,\infty) ;; [-\frac12,\frac12] ;; |x|\le\frac12
gold (0,1]
+ 0<x\le1 ;; x \in (0,1] ;; 0 < x ≤ 1 ;; 1\ge x>0 ;; x>0 \text{ and } x\le1
- [0,1) ;; (0,1) ;; 0\le x\le 1 ;; (0,1 ;; 0,1
gold 1<x<4
+ (1,4) ;; x\in(1,4) ;; 4>x>1 ;; (1, 4)
- [1,4] ;; 1<x ;; 1<y<4 ;; \{1,4\} ;; 2,3
gold [-1,1]
+ -1\le y\le1 ;; |x|\le1 ;; x^2\le1 ;; [-1.0,1]
- (-1,1) ;; -1,1 ;; \pm1
gold (2,3)\cup(3,5)
+ 2<x<5, x\ne3 ;; (3,5)\cup(2,3) ;; (2,5)\setminus\{3\}
- (2,5) ;; [2,3)\cup(3,5]

topic: bases
gold 43_5
+ 43_5 ;; 43_{5} ;; 43_{\text{five}} ;; (43)_5
- 34_5 ;; 43_6 ;; 23 ;; 43_{10}
gold 1010_2
+ 1010_2 ;; 01010_2
- 1010_8 ;; 10 ;; 101_2
gold 255
+ 255 ;; 255_{10} ;; 255_{\text{ten}}
- FF_{16} ;; 377_8

topic: approximations
gold \sqrt{3}
+ \sqrt{3} \approx 1.732 ;; \sqrt{3} ≈ 1.73 ;; 3^{0.5}
- 1.732 ;; 1.7320508 ;; \approx 1.732 ;; \sqrt{3.0001} ;; \frac{97}{56}
gold 8.24
+ 8.24 ;; \approx 8.24 ;; 8.240 ;; ≈ 8.24 ;; \sqrt{67.9} \approx 8.24
- 8.2 ;; 8.25 ;; 8 ;; \approx 8.2
gold \frac{22}{7}
+ 3\frac17 ;; 22/7 ;; 3.\overline{142857}
- \pi ;; 3.142857 ;; 3.14
gold 100
- 99.9999 ;; \approx 100 ;; 100 \pm 0.5 ;; nearly 100 ;; 99.\overline{8}
+ 99.\overline{9} ;; 10^2 ;; 100.000

topic: formatting
gold \frac{a}{2}
+ \textcolor{blue}{\frac{a}{2}} ;; \frac{a}{\color{red}{2}} ;; \mathrm{\frac{a}{2}} ;; \frac a2 ;; a/2 ;; 0.5a
+ \frac{1}{2}a ;; {\frac{a}{2}} ;; \large{\frac{a}{2}}
- \frac{2}{a} ;; \frac{a}{\textcolor{red}{3}}
gold \text{Paris}
+ \textcolor{red}{Paris} ;; {\bf Paris} ;; "Paris" ;; \textbf{\textit{Paris}} ;; PARIS ;; *Paris*
- Par is not ;; Pari ;; Paris, London
gold 1/2, 1/3
+ \frac12,\frac13 ;; \frac{1}{3},\ \frac{1}{2} ;; 0.5, 1/3
- \frac12,0.33 ;; \frac{1}{2}

topic: units
gold 3\text{ cm}
+ 3\text{cm} ;; 3\ \text{cm} ;; 3 \mathrm{~cm} ;; 3\,cm ;; 3cm ;; 3.0\,\text{centimeters}
- 3\text{ cm}^2 ;; 3\text{ mm} ;; 3\text{ in} ;; 3\,\mathrm{km}
gold 45
+ 45^{\circ} ;; 45\ \text{degrees} ;; 45\,\text{mph} ;; 45 \text{ years old} ;; 45\text{ cents} ;; 45 hours per week
+ £45 ;; 45 USD
- 45\text{ hundred} ;; 0.45 ;; 45\text{ or more} ;; -45^\circ ;; 45k
gold 2.5\text{ hours}
+ 2.5 ;; 2\frac12\text{ hours} ;; 2.5\text{ h} ;; 5/2 hours
- 2.5\text{ minutes} ;; 150 ;; 150\text{ minutes} ;; 2\text{ hours}
gold 75\%
+ 75 ;; 75\text{%} ;; \frac34 ;; 0.75 ;; 75 percent
- 7.5\% ;; 0.75\% ;; 25\%
gold \$1,\!657
+ 1657 ;; \$1657 ;; 1,657 dollars ;; $1,657.00 ;; \$1{,}657
- 1,675 ;; 1657 cents ;; \$1.657

topic: text
gold \text{Alice and Bob}
+ Alice and Bob ;; Bob and Alice ;; Alice, Bob ;; \text{Alice} \text{ and } \text{Bob}
- Alice ;; Alice or Bob ;; Alice and Carol
gold \text{(D)}
+ \boxed{D} ;; \text{(D) } 12 ;; D) 12 ;; (d)
- E ;; D or E ;; (A) ;; 12
gold \text{True}
+ true ;; TRUE ;; \text{true}
- false ;; not true ;; untrue
gold \text{parabola}
+ a parabola ;; Parabola ;; \text{Parabola.}
- hyperbola ;; parabola or ellipse

topic: several values
gold 3
- 3 \text{ or } -3 ;; \{3,-3\} ;; 3\text{--}4 ;; 2\text{ to }4 ;; 3,14 ;; [3,3.5] ;; 3\text{ at least} ;; 3/1/2
- between 2 and 4 ;; 3 and a bit ;; x=3, y=4 ;; 3 \vee 4 ;; 3 \land 4 ;; 3|4 ;; 3\,4 ;; 3 or maybe 4 ;; 3, but not 4
- \text{either 3 or 4} ;; 3; or 4 ;; a=3, b=3
+ 3 ;; n = 3 ;; \frac{9}{3} ;; 3 \text{ solutions} ;; \sqrt{9} ;; |{-3}|

topic: names
gold 5
+ g(f(1))=5 ;; a_{10}=5 ;; |AB| = 5 ;; \angle ABC = 5^\circ ;; \text{Area} = 5 ;; S_{100} = 5 ;; P(A \cap B) = 5
+ x_1 + x_2 = 5 ;; AB = BC = 5 ;; m\angle A = 5 ;; \overline{AB} = 5 ;; f(1)+f(2)=5 ;; f'(2) = 5 ;; \tan A = 5
+ \frac{BD}{DC}=5 ;; \log_2 32 = 5 ;; AB=\sqrt{25}=5 ;; r = 5 \text{ cm} ;; \therefore x=5 ;; 5 = x
- 2x=5 ;; x+3=5 ;; AB = 4 = 5 ;; g(f(1))=6 ;; a_5 = 10 ;; x_5 ;; \angle ABC = 4^\circ ;; AB = BC = 6 ;; 5 = 6
- f(5) ;; P(5) ;; x^5=1 ;; \text{Area} = 6 ;; x \to 5 ;; 3x=5 ;; AB=5=6 ;; 5=AB=6
gold (1,2)
+ A(1,2) ;; P = (1,2) ;; \vec{v} = (1,2) ;; \overrightarrow{AB}=\langle 1,2\rangle ;; v = (1,2)
- A(2,1) ;; \vec{v} = (2,1) ;; (1,2)=(2,1) ;; A(1,3)
gold \frac{1}{2}
+ P(X=1)=\frac12 ;; P(A)=\frac{1}{2} ;; \Pr(A) = 0.5 ;; P = \frac{2}{4} = \frac{1}{2}
- P(X=1)=\frac13 ;; P(X=\frac12) ;; P = \frac12 = \frac13
"""
