r"""More answers of the exam, written after the grader had passed the first part, to see what it had not been fitted to.

The notation is math_exam's.
"""

from __future__ import annotations

MORE_ANSWERS = r"""
topic: numbers
gold 0
+ 0 ;; 0.0 ;; -0 ;; x=0 ;; \frac{0}{5} ;; 0\% ;; $0
- 1 ;; \emptyset ;; 0.001 ;; \frac{1}{0} ;; O
gold 1234567
+ 1,234,567 ;; 1 234 567 ;; 1{,}234{,}567 ;; 1.234567 \times 10^6 ;; 1\;234\;567
- 1.234.567 ;; 123,4567 ;; 1234,567 ;; 12345678
gold 0.00015
+ 1.5\times10^{-4} ;; 1.5e-4 ;; 15 \cdot 10^{-5} ;; .00015 ;; \frac{3}{20000}
- 1.5\times 10^{4} ;; 1.5 \times 10^{-5} ;; 0.0015
gold 2^{10}
+ 1024 ;; 2^{10} ;; 4^5 ;; 32^2 ;; 1,024
- 210 ;; 20 ;; 10^2 ;; 2^{1}0
gold 1,500,000
+ 1.5 million ;; 1500000 ;; 1.5\text{ million} ;; 1,500,000 dollars ;; \$1.5 million ;; \$1{,}500{,}000
- 1.5 ;; 1.5 billion ;; 15 million ;; 1,500

topic: fractions
gold \frac{17}{4}
+ 4\frac14 ;; 4.25 ;; 17/4 ;; 4 1/4 ;; \left(\frac{17}{4}\right) ;; \frac{17}{4}. ;; 17\div4 ;; \frac{34}{8}
+ 4+\frac{1}{4} ;; $\dfrac{17}{4}$
- 4\frac{3}{4} ;; 4.2 ;; \frac{4}{17} ;; 41/4 ;; 17.4 ;; -\frac{17}{4}
gold \frac{\sqrt{2}}{2}
+ \frac{1}{\sqrt{2}} ;; \sqrt{\frac{1}{2}} ;; 2^{-1/2} ;; \sqrt{2}/2 ;; \frac12\sqrt2 ;; \sqrt{0.5} ;; √2/2
+ \cos(45^\circ) ;; \sin\frac{\pi}{4}
- \frac{2}{\sqrt{2}} ;; \sqrt{2} ;; 0.7071 ;; \frac{\sqrt2}{4} ;; \pm\frac{\sqrt{2}}{2}
gold \frac{3}{8}\pi
+ \frac{3\pi}{8} ;; 3\pi/8 ;; 0.375\pi ;; \frac{3}{8} π ;; \frac{3 \cdot \pi}{8}
- \frac{3}{8} ;; \frac{3}{8\pi} ;; 1.178

topic: decimals
gold 0.1\overline{6}
+ \frac{1}{6} ;; 0.1\bar{6} ;; 1/6 ;; 0.16\overline{6}
- 0.16 ;; 0.1666667 ;; 0.\overline{16} ;; 0.17
gold 3.14
+ 3.14 ;; \frac{157}{50} ;; 3.140 ;; 3.14 \text{ cm} ;; x \approx 3.14
- \pi ;; 3.1416 ;; 3.1 ;; 3.15 ;; \approx 3.1
gold 66\frac{2}{3}\%
+ 66\frac23\% ;; 66\frac{2}{3} ;; \frac{2}{3} ;; 66.\overline{6}\% ;; \frac{200}{3}\%
- 66\% ;; 66.67\% ;; 67 ;; 0.6667

topic: formatting
gold 3\sqrt{5}
+ \mathbf{3\sqrt{5}} ;; \textbf{3}\sqrt{5} ;; \displaystyle 3\sqrt{5} ;; 3\,\sqrt{5} ;; {3}{\sqrt{5}}
+ $$3\sqrt{5}$$ ;; \textcolor{#ff0000}{3\sqrt{5}} ;; \boldsymbol{3\sqrt5} ;; 3 \sqrt {5} ;; \left. 3\sqrt{5} \right.
- 3\sqrt{\textcolor{red}{6}} ;; 5\sqrt{3} ;; \sqrt{15}
gold (2,-3)
+ \left(2,\,-3\right) ;; (2, − 3) ;; \big(2,-3\big) ;; \boldsymbol{(2,-3)} ;; \text{(2, -3)} ;; x=2, y=-3
+ x=2 \text{ and } y=-3 ;; \langle 2,-3\rangle ;; ( 2 , -3 ) ;; (2; -3)
- (-2,3) ;; (2,3) ;; 2 - 3 ;; x=-3, y=2

topic: algebra
gold 3x^2-12x+12
+ 3(x-2)^2 ;; 3\left(x^2-4x+4\right) ;; 12-12x+3x^2 ;; 3(x-2)(x-2) ;; 3{(x-2)}^2 ;; 3x² − 12x + 12 ;; 3*x^2-12*x+12
+ 3x**2 - 12x + 12
- (x-2)^2 ;; 3x^2+12x+12 ;; 3x^2-12x ;; 3x^2-12x+12=0
gold \frac{x+2}{x-3}
+ 1+\frac{5}{x-3} ;; (x+2)/(x-3) ;; -\frac{x+2}{3-x} ;; \frac{(x+2)(x+1)}{(x-3)(x+1)}
- x+2/x-3 ;; \frac{x-3}{x+2} ;; \frac{x+2}{x+3}
gold \sin^2 x
+ 1-\cos^2 x ;; (\sin x)^2 ;; \sin^2(x) ;; \frac{1-\cos 2x}{2} ;; \sin x\sin x
- \sin x^2 ;; \sin 2x ;; \cos^2 x ;; 2\sin x
gold \log_2 3
+ \frac{\ln 3}{\ln 2} ;; \log_{2}(3) ;; \frac{\log 3}{\log 2} ;; \log_4 9
- \log_3 2 ;; 1.585 ;; \log 3
gold x_1+x_2
+ x_2+x_1 ;; x_{1}+x_{2}
- x_1+x_3 ;; 2x_1
gold |x-1|
+ |1-x| ;; \lvert x-1\rvert ;; \sqrt{(x-1)^2} ;; \left|x-1\right|
- x-1 ;; |x+1| ;; 1-x
gold n(n+1)/2
+ \frac{n(n+1)}{2} ;; \frac{n^2+n}{2} ;; \binom{n+1}{2} ;; \frac12 n(n+1)
- \frac{n(n-1)}{2} ;; n^2 ;; \frac{n(n+1)}{4}
gold e^{x}+C
+ C+e^x ;; e^x + C
- e^x ;; e^{x+C}
gold -4k^5
+ -4k^5 ;; -4 k^{5} ;; (-4)k^5
- 4k^5 ;; -4k ;; -4^5k
gold 5
- 5x ;; 5m^2x ;; 5 \cdot k ;; a5

topic: equations
gold y=-\frac{1}{2}x^2+4x-6
+ y=-\frac12x^2+4x-6 ;; -\frac{1}{2}x^2+4x-6 ;; 2y=-x^2+8x-12 ;; y = -0.5x^2 + 4x - 6
- y=\frac12x^2+4x-6 ;; x=-\frac12y^2+4y-6
gold x^2+y^2=25
+ y^2+x^2=25 ;; x^2+y^2-25=0 ;; 25=x^2+y^2 ;; 2x^2+2y^2=50
- x^2+y^2=5 ;; x^2-y^2=25 ;; 25 ;; x^2+y^2<25
gold m=7
+ 7 ;; m = 7 ;; m=\boxed{7} ;; m=7.0
- n=7 ;; m=8 ;; 7m
gold 204
+ m+n=204 ;; 200+4=204 ;; m+n = 4+200 = 204 ;; \text{Sum} = 204 ;; A = 204
- m+n=203 ;; 2m+n=204 \text{ or } 205 ;; m=200, n=4
gold x=\frac{1}{67}
+ \frac1{67} ;; x = 1/67 ;; 67x=1
- 67 ;; x=67

topic: lists and sets
gold -2,1,\frac{3}{2}
+ 1, -2, 1.5 ;; \left\{-2,1,\frac32\right\} ;; x=-2, x=1, x=\frac{3}{2} ;; x = -2, 1, \frac{3}{2}
+ x\in\{-2,1,3/2\} ;; -2; 1; 1.5 ;; -2, 1 \text{ and } \frac{3}{2} ;; x=-2 \text{ or } x = 1 \text{ or } x=1.5
+ x = -2, 1, \text{ or } \frac32
- -2,1 ;; (−2,1,3/2) ;; 2,1,\frac32 ;; -2,1,1.5,2 ;; -2 < 1 < 1.5
gold 1 \pm \sqrt{19}
+ 1+\sqrt{19},1-\sqrt{19} ;; x = 1 \pm \sqrt{19} ;; \{1-\sqrt{19},1+\sqrt{19}\} ;; 1\pm√19
- 1+\sqrt{19} ;; -1\pm\sqrt{19} ;; \pm\sqrt{19}
gold i,-i
+ \pm i ;; -i, i
- i ;; 1,-1
gold \{(1,2),(2,1)\}
+ (1,2),(2,1) ;; (2,1) \text{ and } (1,2) ;; \{ (2,1), (1,2) \}
- (1,2) ;; 1,2 ;; (1,2,2,1)
gold 6, 8\text{, and }10
+ 6,8,10 ;; 10, 8, 6 ;; 6, 8 and 10 ;; \{6,8,10\}
- 6,8 ;; 24 ;; 6,8,12
gold \text{A, B}
+ A,B ;; B,A ;; \text{A and B} ;; A and B
- A ;; AB,C ;; C
gold 7
+ \{7\} ;; x\in\{7\}
- \{7,8\} ;; \{\}

topic: intervals
gold \left[-3,-\frac{4}{3}\right)
+ [-3,-4/3) ;; -3\leq x<-\frac43 ;; x\in\left[-3,-\frac{4}{3}\right) ;; \{x \mid -3\le x<-4/3\}
+ -\frac{4}{3} > x \ge -3
- (-3,-4/3) ;; [-3,-4/3] ;; -3\le x\le -\frac43 ;; (-3,-\frac43]
gold \{-1\}\cup[0,7)
+ [0,7)\cup\{-1\} ;; x=-1 \text{ or } 0\le x<7
- [-1,7) ;; [0,7) ;; \{-1,0,7\}
gold [1,2]\cup[3,4)
+ [3,4)\cup[1,2] ;; 1\le x\le2 \text{ or } 3\le x<4 ;; [1,2] ∪ [3,4)
- [1,4) ;; [1,2]\cup[3,4] ;; [1,2],[3,5)
gold x<3
+ (-\infty,3) ;; x < 3 ;; 3 > x ;; x \lt 3
- x>3 ;; x \le 3 ;; (-\infty,3] ;; 3 ;; (3,\infty)
gold (1,\infty)
+ x>1 ;; (1,+\infty) ;; \{x : x>1\} ;; x\in(1,\infty) ;; (1, inf)
- [1,\infty) ;; (1,100) ;; x<1 ;; (-1,\infty)
gold s^2 \le 8r^2
+ 8r^2 \ge s^2 ;; s^2-8r^2\le0 ;; 2s^2\le16r^2
- s^2\ge 8r^2 ;; s^2<8r^2 ;; s\le8r
gold (-\infty,-1)\cup(-1,\infty)
+ x\ne-1 ;; \mathbb{R}\setminus\{-1\} ;; (-1,\infty)\cup(-\infty,-1) ;; x \neq -1
- x\ne1 ;; (-\infty,\infty)

topic: bases
gold 2516_8
+ 2516_{8} ;; 2516_{\text{eight}} ;; 2516₈
- 2516_9 ;; 2517_8 ;; 1358 ;; 2516_{16}
gold -221_3
+ -221_{3} ;; -221_3
- 221_3 ;; -25
gold 4D_{16}
+ 4d_{16} ;; \mathrm{4D}_{16} ;; 4D_{16}
- 4E_{16} ;; 4D_{15} ;; 77

topic: units
gold 5\text{ m/s}
+ 5 m/s ;; 5\,\mathrm{m/s} ;; 5 ;; 5 \text{ meters per second} ;; 5\ \text{m}/\text{s}
- 5 km/h ;; 5 m ;; 5 s
gold 144 \mbox{ m}^3
+ 144 ;; 144\text{ m}^3 ;; 144 cubic meters ;; 144 m^3 ;; 144\,\text{m}^{3}
- 144\text{ m}^2 ;; 144\text{ m} ;; 144 cm^3
gold 12\sqrt{13}\text{ feet}
+ 12\sqrt{13} ;; 12\sqrt{13} ft ;; 12\sqrt{13} feet
- 12\sqrt{13}\text{ inches} ;; 12\sqrt{12}\text{ feet}
gold 60
+ 60 minutes ;; 60\% ;; 60^\circ ;; 60\text{ miles per hour} ;; 60 km/h ;; 60 students
+ 60 \text{ cubic centimeters} ;; 60m ;; \$60 ;; 60\text{ different ways} ;; 60 cents ;; € 60
- 1 hour ;; 60\text{ or }61 ;; about 60 ;; 60 and a half ;; 60 dozen ;; 60.5 minutes
gold 18\text{ hours}
+ 18 hr ;; 18 ;; 18 hours ;; 18\text{h}
- 18 minutes ;; 18 days ;; 18\text{ apples}
gold 25
+ \text{The area is } 25 ;; 25\text{ square units} ;; \text{25 cm}^2 ;; 25\text{ cm}^{2}
- \text{25 or 26} ;; 25\text{ hundred}
gold 0.4\mbox{ miles}
+ 0.4 mi ;; \frac{2}{5}\text{ miles} ;; 0.40
- 0.4 km ;; 4 miles

topic: text
gold \text{Friday}
+ Friday ;; friday ;; \text{friday} ;; \textit{Friday} ;; **Friday** ;; \boxed{\text{Friday}}
- Thursday ;; Fri or Sat ;; Friday, Saturday
gold \text{4:30 p.m.}
+ 4:30 p.m. ;; 4:30 PM ;; \text{4:30 pm}
- 4:30 a.m. ;; 5:30 p.m. ;; 430
gold \text{(B)}
+ \text{B} ;; (B) ;; \textbf{(B)}\ 24 ;; \mathrm{(B)} ;; (B) 24 ;; B.
- \textbf{(C)}\ 24 ;; (A) or (B) ;; 24 ;; AB
gold \text{even}
+ Even ;; \text{even}
- odd ;; not even ;; even or odd ;; uneven
gold \text{two lines}
+ two lines ;; Two lines
- one line ;; lines
gold \text{Yes}
+ yes ;; Yes. ;; \textbf{Yes}
- no ;; yes or no

topic: several values
gold 12
- 12 or more ;; 10-12 ;; 12 \pm 1 ;; \text{12 or 13} ;; 11 < x < 13 ;; [12,13] ;; 12/13 ;; roughly 12 ;; \approx 12
- \sim 12 ;; 12ish ;; (12,13) ;; 12, 12.0, 13 ;; \text{at least }12 ;; \le 12 ;; \geq 12 ;; 12...15
- 12 \text{ to } 13 ;; \text{Probably } 12 ;; 12, \text{ but maybe } 13 ;; \text{not } 12 ;; \neq 12
+ 12 ;; \text{exactly }12 ;; 12.0 ;; = 12
"""
